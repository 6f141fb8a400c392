-- Who asks for their tenant's unanswered questions also sees which of them are being worked on, and by whom.

create policy tenant on bichat.reply_leases for select to bichat_reader
    using (tenant_id = nullif(current_setting('bichat.tenant', true), '')::uuid);
grant select on bichat.reply_leases to bichat_reader;
