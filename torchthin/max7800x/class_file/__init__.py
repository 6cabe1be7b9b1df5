"""A thin model as a Python file: its class with literal sizes, for models that are plain chains of layers."""
