"""Trained actors that come with the package: `Policy.pretrained("simple_reference")`."""
