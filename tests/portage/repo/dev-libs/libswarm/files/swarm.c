const char *swarm_word(void) { return "swarm"; }
