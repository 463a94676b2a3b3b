"""Flax modules, and what belongs to a model: its registry, its summary."""

from jax_models.registry import MODELS, create_model

__all__ = ['MODELS', 'create_model']
