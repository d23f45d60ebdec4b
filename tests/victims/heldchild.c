/* As held.c, but who reads the clock is a child of the process that was started. */
#define HELD_IS_A_CHILD
#include "held.c"
