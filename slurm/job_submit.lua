-- slurmctld's job_submit.lua, beside slurm.conf, with VmBatch's part; a site that has one adds the lines with vmbatch to it.

local vmbatch = dofile("/etc/slurm/vmbatch.lua")
local guests = { "vm" } -- the partitions of [queues] in vmbatch.conf

function slurm_job_submit(job_desc, part_list, submit_uid)
	return vmbatch.job_submit(guests, job_desc, part_list)
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
	return vmbatch.job_modify(guests, job_desc, job_rec, part_list)
end
