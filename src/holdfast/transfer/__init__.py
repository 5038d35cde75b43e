"""One object, whole and right: extents, validators, verification, data planes."""
