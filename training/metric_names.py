"""What a run measures after every epoch, by the names in metrics.jsonl."""

METRICS = (
    *('train_loss', 'train_accuracy', 'val_loss', 'val_accuracy', 'test_loss', 'test_accuracy'),
    *('verification_eer', 'verification_auc', 'verification_accuracy'),
)


def higher_is_better(metric: str) -> bool:
    """Whether a metric of a run, such as val_loss, is to be large."""
    return metric.endswith(('accuracy', 'auc'))
