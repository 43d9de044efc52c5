"""From a command line to a training: config, device, processes, checks, summary."""
