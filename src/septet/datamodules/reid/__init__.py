"""Visible-infrared re-identification."""
