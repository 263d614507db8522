const char *swarm_word(void);
