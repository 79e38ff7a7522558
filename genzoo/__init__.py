"""Compare generative models on your own data with your own compute."""

__version__ = "0.1.0"
