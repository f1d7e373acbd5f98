--[[ VmBatch's part of job_submit.lua (JobSubmitPlugins=lua), for slurmctld: what jobs in partitions with guests may not ask for.

     Nothing of a user's may run on the node. --get-user-env, which --export=NONE implies, has slurmd run the user's login shell
     there (slurmd/req.c, _get_user_env); the guest's own login shell does that instead. ]]

local vmbatch = {}

local function guests_among(partitions, default, names)
	local inside, outside = {}, {}
	for name in string.gmatch(partitions or default or "", "[^,]+") do
		table.insert(names[name] and inside or outside, name)
	end
	return inside, outside
end

local function default_of(part_list)
	for name, part in pairs(part_list) do
		if part.flag_default == 1 then
			return name
		end
	end
end

local function set_of(partitions)
	local names = {}
	for _, name in ipairs(partitions) do
		names[name] = true
	end
	return names
end

local function refuse(text)
	slurm.log_user("vmbatch: %s", text)
	slurm.log_info("vmbatch: %s", text)
	return slurm.ERROR
end

-- partitions: a list of the names of those whose jobs run in guests
function vmbatch.job_submit(partitions, job_desc, part_list)
	local inside, outside = guests_among(job_desc.partition, default_of(part_list), set_of(partitions))
	if #inside == 0 then
		return slurm.SUCCESS
	end
	if #outside > 0 then
		return refuse("a job runs either in a guest (" .. table.concat(inside, ", ") .. ") or on the node ("
			.. table.concat(outside, ", ") .. "): name partitions of one sort")
	end
	if job_desc.min_nodes ~= slurm.NO_VAL and job_desc.min_nodes > 1 then
		return refuse("jobs of partition " .. inside[1] .. " run in one guest: submit with --nodes=1")
	end
	if job_desc.het_job_offset ~= nil and job_desc.het_job_offset ~= slurm.NO_VAL then
		return refuse("heterogeneous jobs do not run in partition " .. inside[1] .. ": submit its parts as jobs of their own")
	end
	if job_desc.script ~= nil and job_desc.environment["SLURM_GET_USER_ENV"] ~= nil then
		job_desc.environment["SLURM_GET_USER_ENV"] = "0"
	end
	return slurm.SUCCESS
end

function vmbatch.job_modify(partitions, job_desc, job_rec, part_list)
	local names = set_of(partitions)
	local inside, outside = guests_among(job_desc.partition, nil, names)
	local was = guests_among(job_rec.partition, nil, names)
	if (#inside > 0 and #was == 0) or (#outside > 0 and #was > 0) then
		return refuse("a job cannot move between guests and nodes: submit it anew")
	end
	return slurm.SUCCESS
end

return vmbatch
