"""The host side: targets, plan, store, environments, runner, doit tasks. Light imports only."""
