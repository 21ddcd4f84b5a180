"""medssl: self-supervised pretraining and few-label fine-tuning on medical archives."""

__version__ = "0.1.0"
