/* remoteshell's first steps: a static program, into which no loader brings what users name in their jobs' environment
 * (LD_PRELOAD, LD_LIBRARY_PATH, GCONV_PATH...). All variables get a prefix that nobody knows but vmbatch/shell/environment.py.
 * `vmbatch hooks` fills in the strings and compiles it.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char prefix[] = @PREFIX@;
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

int main(int argc, char **argv, char **variables)
{
    size_t count = 0, n;
    char **arguments, **environment;

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
