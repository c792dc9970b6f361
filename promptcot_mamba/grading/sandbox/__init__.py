"""Where model-written programs run: child processes with limits, namespaces, Landlock and seccomp."""
