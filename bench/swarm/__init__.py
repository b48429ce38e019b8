"""Locust as a driver of many processes: what its workers measure, send to the master and come to together."""
