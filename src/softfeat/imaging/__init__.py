"""Pictures: reading, resizing, superpixels and drawing."""
