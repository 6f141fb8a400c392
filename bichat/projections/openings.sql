-- The first words of dialogues, for those that have no label.

-- name: openings
select p.dialogue_id, left(p.messages->0->>'content', 200)
from bichat.transcripts_pages_vN p
join bichat.transcripts_vN h on h.id = p.dialogue_id
where p.dialogue_id = any(%(dialogues)s) and p.page = 0 and p.tenant_id = %(tenant_id)s
  and h.tenant_id = %(tenant_id)s and h.user_id = %(user_id)s;
