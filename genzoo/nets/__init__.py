"""Backbones: networks without any training."""
