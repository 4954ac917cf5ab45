"""Tests of the packages: `make test-packages`."""
