"""The learner among partners of other replicas."""
