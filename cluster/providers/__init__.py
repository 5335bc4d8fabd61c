"""Where a cluster profile is rendered for: AWS here, Kubernetes in its own room.

It may import `providers.kuberay`, `local` and the modules beside the rooms.
"""
