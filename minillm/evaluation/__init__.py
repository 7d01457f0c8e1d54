"""Evaluation: all figures of a trained model, and the audit of whether they can be trusted."""
