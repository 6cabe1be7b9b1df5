"""A thin model as a Python file: its class with literal sizes, or the user's own class made smaller when it is built."""
