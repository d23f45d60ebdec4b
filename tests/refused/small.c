/* A 32-bit program without a library: gcc -m32 -static -nostdlib. It sleeps, for ever. */
struct pause {
	long seconds, nanoseconds;
};

void _start(void)
{
	static const struct pause millisecond = { 0, 1000000 };
	for (;;) {
		long number = 162; /* nanosleep */
		__asm__ volatile("int $0x80"
				 : "+a"(number)
				 : "b"(&millisecond), "c"(0)
				 : "memory");
	}
}
