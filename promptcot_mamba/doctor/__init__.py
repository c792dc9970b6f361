"""Is this machine ready? Driver, devices, packages, compilers, kernels, collectives and limits: a finding each."""
