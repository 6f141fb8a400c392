-- Who runs a build, and what became of those before.

-- name: found
select position, runner, takeovers, trying from bichat.checkpoints
where name = %s and shape = %s and build = %s and partition = 0;

-- name: signed
update bichat.checkpoints set runner = %s, takeovers = %s, trying = %s
where name = %s and shape = %s and build = %s and partition = 0;

-- name: trying
update bichat.checkpoints set trying = %s
where name = %s and shape = %s and build = %s and partition = 0;
