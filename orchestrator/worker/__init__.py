"""What a worker process does with one work item: fetch inputs, train or prune, commit.

It may import `ray_cluster`, `tracking`, `cost`, `store`, `plan` and `trainables`. It loads torch.
"""
