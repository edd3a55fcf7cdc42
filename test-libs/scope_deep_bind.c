// Its own definition comes first only if it is opened with deep binding.

int provided(void) { return 6; }
int call_own(void) { return provided(); }
