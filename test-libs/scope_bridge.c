// Opened into the global scope, it brings what it needs.
// needs: scope_provider

int provided(void);
int call_through_bridge(void) { return provided(); }
