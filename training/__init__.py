"""From a config to a trained model: state, steps, their execution, and the loop around them."""


class ConfigError(Exception):
    """A key is unknown or its value is not allowed; the message names it and what is."""


class CheckpointError(Exception):
    """A checkpoint is missing, damaged or of another run; the message says which and what to do."""


class NonFiniteLoss(Exception):
    """Loss, parameters or outputs are infinite or NaN; the message names the step or the image."""
