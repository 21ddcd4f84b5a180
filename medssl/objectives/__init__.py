"""Self-supervised tasks, one file each: Config, pure loss function, Task."""
