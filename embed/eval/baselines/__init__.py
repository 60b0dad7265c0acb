"""What a user would pick instead of a checkpoint, scored on the same items by the same metrics."""
