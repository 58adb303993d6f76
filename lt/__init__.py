"""lt: text-image data sets, and the models of ten papers on them."""


def __getattr__(name: str) -> str:
    if name == "__version__":  # looked up when asked for: reading metadata would cost every `lt --help`
        from importlib.metadata import version

        return version("lt-toolkit")
    raise AttributeError(f"module 'lt' has no attribute {name!r}")
