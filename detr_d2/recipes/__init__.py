"""What each paper prescribes, and how a config differs from it."""
