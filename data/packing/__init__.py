"""Packing: a source's samples become a store of uniform images."""
