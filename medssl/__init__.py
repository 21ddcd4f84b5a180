"""medssl: self-supervised pretraining and few-label fine-tuning on medical archives."""

from medssl._api import (
    compare,
    deidentify,
    demo,
    doctor,
    embed,
    evaluate,
    finetune,
    index,
    phantom,
    plan,
    predict,
    pretrain,
    read,
    read_folder,
    report,
    soup,
)

__version__ = "0.1.0"

__all__ = [
    "compare",
    "deidentify",
    "demo",
    "doctor",
    "embed",
    "evaluate",
    "finetune",
    "index",
    "phantom",
    "plan",
    "predict",
    "pretrain",
    "read",
    "read_folder",
    "report",
    "soup",
]
