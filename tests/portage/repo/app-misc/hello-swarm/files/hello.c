#include <stdio.h>
#include <swarm.h>

int main(void) {
#ifdef SHOUT
	printf("hello, %s!\n", swarm_word());
#else
	printf("hello, %s\n", swarm_word());
#endif
	return 0;
}
