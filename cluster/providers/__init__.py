"""The providers that a cluster profile is rendered for: AWS, and Kubernetes in `kuberay`.

This package may import `local` and the modules of `cluster`.
"""
