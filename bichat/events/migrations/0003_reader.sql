-- The role of everything that answers a request: it reads read models, one tenant at a time.

do $$
begin
    if not exists (select from pg_roles where rolname = 'bichat_reader') then
        create role bichat_reader nologin;
    end if;
exception
    -- Another database of this server is being migrated at the same moment.
    when duplicate_object or unique_violation then null;
end
$$;
do $$
begin
    -- Who has it already may not be allowed to grant it. From 16 on, to be a member is not yet to be allowed SET ROLE.
    if not pg_has_role(current_user, 'bichat_reader',
                       case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end) then
        grant bichat_reader to current_user;
    end if;
end
$$;
grant usage on schema bichat to bichat_reader;
grant select on bichat.checkpoints to bichat_reader;
revoke all on function bichat.head() from public;
grant execute on function bichat.head() to bichat_reader;
