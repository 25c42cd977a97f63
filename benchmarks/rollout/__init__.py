"""What the asynchronous collector gains where something waits, and costs where nothing does."""
