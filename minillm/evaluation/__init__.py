"""What a trained model is worth: one file a question."""
