"""CAKE and its rivals: long-context training and evaluation with compressed KV caches."""
