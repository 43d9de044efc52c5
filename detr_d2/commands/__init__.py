"""One command per file: `build_parser()`, `main(argv) -> int`; `_options` and `_run` hold what several share."""
