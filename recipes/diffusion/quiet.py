"""Loading and saving without the bars that transformers and diffusers draw on stderr, terminal or not."""


def without_bars() -> None:
    """Switch their progress bars off, for this process."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
