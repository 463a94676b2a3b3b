"""Flax modules, and what belongs to a model: its registry, its summary."""

from jax_models.registry import create_model, model_names

__all__ = ['create_model', 'model_names']
