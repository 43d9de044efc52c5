"""The commands, one per file: `build_parser()`, `main(argv) -> int`. Only `__main__` and `train_net.py` import them."""
