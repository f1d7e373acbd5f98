/* remoteshell's first steps: a static program, into which no loader brings what users name in their jobs' environment
 * (LD_PRELOAD, LD_LIBRARY_PATH, GCONV_PATH...). All variables get a prefix that nobody knows but vmbatch/shell/environment.py.
 * A job of a queue that the configuration does not name gets its own shell at once, and nothing of it is changed.
 * `vmbatch hooks` fills in the strings and compiles it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char prefix[] = @PREFIX@;
__attribute__((used)) static const char mark[] = @MARK@;
static char *head[] = {@INTERPRETER@, "-I", "-S", "-X", "utf8", "-c", @CODE@};
static char *own[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=/"};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static void fail(const char *text)
{
    if (write(2, text, strlen(text)) < 0)
        _exit(254);
    _exit(255);
}

static void *room(size_t count, size_t size)
{
    void *made = calloc(count, size);

    if (made == NULL)
        fail("vmbatch: the job does not run: no memory for its environment\n");
    return made;
}

/* A variable's value, such as the job's queue, which mom sets behind the user's own variables. */
static const char *value_of(const char *name, char **variables)
{
    const char *value = "";
    size_t length = strlen(name), n;

    for (n = 0; variables[n] != NULL; n++)
        if (strncmp(variables[n], name, length) == 0 && variables[n][length] == '=')
            value = variables[n] + length + 1;
    return value;
}

/* What mom would have executed without us: the job's own shell is a login shell then, and has a dash before its name. */
static void step_aside(char **words, char **variables)
{
    const char *program = words[0];

    if (strcmp(value_of("PBS_TASKNUM", variables), "1") == 0 && strcmp(value_of("SHELL", variables), program) == 0) {
        const char *slash = strrchr(program, '/');

        slash = slash == NULL ? program : slash + 1;
        words[0] = room(strlen(slash) + 2, 1);
        words[0][0] = '-';
        strcpy(words[0] + 1, slash);
    }
    execvp(program, words);
    fail("vmbatch: the shell of the job cannot be started on this node\n");
}

/* The configuration without whole-line comments may name the queue: the rule of vmbatch/native.py, names_queue. */
static int names(const char *text, size_t size, const char *queue)
{
    const char *line, *next, *end = text + size;

    if (memmem(text, size, "\"\"\"", 3) != NULL || memmem(text, size, "'''", 3) != NULL)
        return 1;
    for (line = text; line < end; line = next) {
        size_t length;

        next = memchr(line, '\n', (size_t)(end - line));
        next = next == NULL ? end : next + 1;
        while (line < next && strchr(" \t\n\r\f\v", *line) != NULL && *line != '\0')
            line++;
        length = (size_t)(next - line);
        if (length == 0 || *line == '#')
            continue;
        if (memchr(line, '\\', length) != NULL || memmem(line, length, queue, strlen(queue)) != NULL)
            return 1;
    }
    return *queue == '\0';
}

/* Whether the job may have a guest; what cannot be told here is left to Python. */
static int may_be_ours(const char *queue)
{
    static char text[1 << 20];
    size_t size = 0;
    ssize_t got;
    int file = open(@CONFIG@, O_RDONLY | O_CLOEXEC);

    if (file < 0)
        return errno != ENOENT;
    while ((got = read(file, text + size, sizeof text - size)) > 0)
        size += (size_t)got;
    close(file);
    return got < 0 || size == sizeof text || names(text, size, queue);
}

int main(int argc, char **argv, char **variables)
{
    size_t count = 0, n;
    char **arguments, **environment;

    if (argc > 1 && !may_be_ours(value_of("PBS_QUEUE", variables)))
        step_aside(argv + 1, variables);
    while (variables[count] != NULL)
        count++;
    environment = room(LENGTH(own) + count + 1, sizeof(char *));
    memcpy(environment, own, sizeof own);
    for (n = 0; n < count; n++) {
        size_t length = strlen(variables[n]);
        char *renamed = room(sizeof prefix + length, 1);

        memcpy(renamed, prefix, sizeof prefix - 1);
        memcpy(renamed + sizeof prefix - 1, variables[n], length);
        environment[LENGTH(own) + n] = renamed;
    }
    arguments = room(LENGTH(head) + (size_t)argc + 1, sizeof(char *));
    memcpy(arguments, head, sizeof head);
    memcpy(arguments + LENGTH(head), argv, (size_t)argc * sizeof(char *));
    execve(arguments[0], arguments, environment);
    fail("vmbatch: the job does not run: the interpreter of remoteshell cannot be started; is " @INTERPRETER@
         " there, and is the job's environment smaller than the system's limit?\n");
    return 255;
}
