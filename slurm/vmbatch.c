/* VmBatch's SPANK plugin: whatever Slurm would start for a job with a guest is given to slurm-task instead.
 *
 * slurmstepd calls a plugin in the task itself, as the user, just before it runs the user's program (spank(7),
 * slurm_spank_task_init): batch scripts, steps, interactive shells, all come by there. What is exec'd from here replaces all that
 * Slurm has in mind for later: the site's and the user's task prologs, which would run on the node, and the program itself. The
 * job's environment goes along in a memory file, as in the environment proper a LD_PRELOAD would work on slurm-task.
 *
 * srun --task-epilog runs a user's program on the node from slurmstepd itself. A seccomp filter takes execve from the thread that
 * does it, once the tasks are forked.
 *
 * A job is ours if its Prolog left a hand-over, or a refusal, for it. So that no job of those partitions runs on a node whose
 * slurm.conf lacks the Prolog, they may be listed, too. In plugstack.conf:
 *     required /usr/lib/x86_64-linux-gnu/slurm-wlm/vmbatch.so task=/opt/vmbatch/hooks/slurm-task partitions=vm,vmlarge
 */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <slurm/slurm.h>
#include <slurm/spank.h>

SPANK_PLUGIN(vmbatch, 1);

#define HANDOVER "/run/vmbatch/handover"
#define FAILURE 255

static const char *program = "/opt/vmbatch/hooks/slurm-task";
static const char *partitions = "";
static char partition[256];
static uint32_t job;
static int ours;
static int filtered;

/* Ends a task that must not run on the node; the text reaches the user's stderr. */
static void refuse(const char *what)
{
	dprintf(STDERR_FILENO, "vmbatch: the job does not run: %s: %s\n", what, strerror(errno));
	_exit(FAILURE);
}

/* Whether the option has the partition among its names. */
static int listed(const char *names, const char *name)
{
	size_t length = strlen(name);

	for (; *names; names += strcspn(names, ","), names += *names == ',')
		if (strcspn(names, ",") == length && strncmp(names, name, length) == 0)
			return 1;
	return 0;
}

static int permit(int value, const char *text, int remote)
{
	return ESPANK_SUCCESS;
}

/* Also where jobs are submitted, as there the option is known from. */
int slurm_spank_init(spank_t sp, int ac, char **av)
{
	static struct spank_option wishes = {
		"vmbatch", "NAME=VALUE[;...]", "what the job asks of its guest, such as vbimage=URL", 1, 0, permit,
	};

	if (spank_option_register(sp, &wishes) != ESPANK_SUCCESS)
		return ESPANK_ERROR;
	if (spank_context() != S_CTX_REMOTE)
		return ESPANK_SUCCESS;
	for (int i = 0; i < ac; i++) {
		if (strncmp(av[i], "task=/", 6) == 0) {
			program = av[i] + 5;
		} else if (strncmp(av[i], "partitions=", 11) == 0) {
			partitions = av[i] + 11;
		} else {
			slurm_error("vmbatch: plugstack.conf: unknown option %s", av[i]);
			return ESPANK_BAD_ARG;
		}
	}
	return ESPANK_SUCCESS;
}

/* As root, before anything of the user's: whose job is this? Slurm sets SLURM_JOB_PARTITION itself, whatever the user gave. */
int slurm_spank_init_post_opt(spank_t sp, int ac, char **av)
{
	char place[sizeof(HANDOVER) + 16];
	spank_err_t known;

	if (spank_context() != S_CTX_REMOTE)
		return ESPANK_SUCCESS;
	if (spank_get_item(sp, S_JOB_ID, &job) != ESPANK_SUCCESS) {
		slurm_error("vmbatch: Slurm does not say which job this is");
		return ESPANK_ERROR;
	}
	known = spank_getenv(sp, "SLURM_JOB_PARTITION", partition, sizeof(partition));
	snprintf(place, sizeof(place), HANDOVER "/%u", job);
	ours = access(place, F_OK) == 0 || known == ESPANK_NOSPACE || (known == ESPANK_SUCCESS && listed(partitions, partition));
	return ESPANK_SUCCESS;
}

/* The job's environment as a file without a name: NAME=VALUE, each with a NUL behind it. */
static int keep(char **environment)
{
	int fd = memfd_create("environment", 0);
	FILE *file = fd < 0 ? NULL : fdopen(dup(fd), "w");

	if (!file)
		refuse("its environment");
	for (; environment && *environment; environment++)
		fwrite(*environment, 1, strlen(*environment) + 1, file);
	if (fclose(file) != 0 || lseek(fd, 0, SEEK_SET) != 0)
		refuse("its environment");
	return fd;
}

/* In the task, as the user, with the task's streams and directory: does not return for a job that is ours. */
int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
	char id[32], step[40], fd[48], queue[sizeof(partition) + 16];
	char *environment[] = {"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", id, step, fd, queue, NULL};
	uint32_t number = 0;
	char **words, **variables, **argv;
	int many;

	if (!ours)
		return ESPANK_SUCCESS;
	errno = EINVAL;
	if (spank_get_item(sp, S_JOB_ARGV, &many, &words) != ESPANK_SUCCESS || many < 1
	    || spank_get_item(sp, S_JOB_ENV, &variables) != ESPANK_SUCCESS
	    || spank_get_item(sp, S_JOB_STEPID, &number) != ESPANK_SUCCESS)
		refuse("Slurm does not say what is to be run");
	snprintf(id, sizeof(id), "VMBATCH_JOB=%u", job);
	snprintf(step, sizeof(step), number == SLURM_BATCH_SCRIPT ? "VMBATCH_STEP=batch" : "VMBATCH_STEP=%u", number);
	snprintf(queue, sizeof(queue), "VMBATCH_QUEUE=%s", partition);
	snprintf(fd, sizeof(fd), "VMBATCH_ENVIRONMENT=%d", keep(variables));
	if (!(argv = calloc(many + 2, sizeof(*argv))))
		refuse("its arguments");
	argv[0] = (char *) program;
	memcpy(argv + 1, words, many * sizeof(*argv));
	execve(program, argv, environment);
	refuse(program);
	return ESPANK_ERROR;
}

/* In slurmstepd, as root, when all tasks are forked: nothing is exec'd from its main thread any more. */
int slurm_spank_task_post_fork(spank_t sp, int ac, char **av)
{
	static struct sock_filter lines[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execveat, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {sizeof(lines) / sizeof(*lines), lines};

	if (!ours || filtered)
		return ESPANK_SUCCESS;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
		slurm_error("vmbatch: a task epilog cannot be kept from running on the node: %s", strerror(errno));
		return ESPANK_ERROR;
	}
	filtered = 1;
	return ESPANK_SUCCESS;
}
