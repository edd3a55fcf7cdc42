// Constructors get the process's argc, argv and envp.

int argument_count;
char **arguments, **environment;

__attribute__((constructor)) static void start(int argc, char **argv, char **envp) {
    argument_count = argc;
    arguments = argv;
    environment = envp;
}
