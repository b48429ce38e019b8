"""The scenarios that come with tokenwire: TOML files in this folder, found by `bench.scenario_toml`."""
