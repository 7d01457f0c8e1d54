"""What a trained model expects where, and a page that shows it."""
