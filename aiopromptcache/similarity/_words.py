"""The vocabulary of the guards: small, closed lists."""

# ruff: noqa: E501, SIM905 (lists of words are read best as words)

from __future__ import annotations

import re

TURNING = ("un", "in", "im", "il", "ir", "non", "dis", "anti")
"""What makes of a word its opposite, in front of it."""

OPPOSITE_PREFIXES = (
    ("hyper", "hypo"), ("over", "under"), ("pre", "post"), ("macro", "micro"), ("inter", "intra"),
    ("up", "down"), ("in", "out"), ("in", "ex"), ("im", "ex"), ("en", "de"), ("as", "des"),
    ("pro", "anti"), ("homo", "hetero"), ("ein", "aus"), ("в", "вы"),
)  # fmt: skip
"""Beginnings of words that are opposites where the rest is the same."""

NEGATIONS = frozenset(
    """not no never without none nobody nothing nowhere neither nor cannot hardly barely unable
    lack lacks lacking except excluding outside avoid     nicht kein keine keinen keiner nie niemals ohne pas jamais sans aucun aucune nunca sin ningún
    ninguna não nem sem senza mai не нет без никогда 안 못 non niet geen nooit zonder nie bez nigdy inte ingen utan
    ikke değil لا لم لن ليس بدون नहीं मत बिना""".split()
)
"""Words; those with n't are seen by their ending."""
NEGATING_SIGNS = (*"不没沒无無非未别勿莫毋않없", "ない", "なく", "ません", "ไม่")
"""The same in scripts without spaces between words."""
NO_NEGATIONS = (
    "不过 不但 不仅 不管 不论 无论 不同 不断 不久 不妨 别人 别墅 别名 别的 特别 分别 区别 类别 级别 "
    "性别 个别 告别 差别 识别 鉴别 差不多 对不起 不好意思 除非 是非 非常 非洲 未来 未婚妻 无线 无锡 "
    "无非 是不是 有没有 能不能 会不会 可不可以 要不要 好不好 行不行 对不对 不得不 并非不 "
    "没关系 沒有沒有 すみません ませんか しれない しれません 少ない 危ない なくては なければ なくなる "
    "หรือไม่ ใช่ไหม"
).split()
"""Words in which those signs negate nothing."""

NUMBERS = {
    **{word: str(value) for value, word in enumerate("zero one two three four five six seven eight "
       "nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
       "nineteen".split())},
    **{word: str(10 * value) for value, word in enumerate("twenty thirty forty fifty sixty seventy "
       "eighty ninety".split(), 2)},
    "hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000",
    "dozen": "12", "half": "1/2", "third": "3rd", "fourth": "4th", "fifth": "5th", "sixth": "6th",
    "seventh": "7th", "eighth": "8th", "ninth": "9th", "tenth": "10th", "twice": "2x",
    "double": "2x", "thrice": "3x", "triple": "3x",
}  # fmt: skip
CHINESE_DIGITS = dict(zip("〇零一二两三四五六七八九", "001223456789", strict=True))
CHINESE_UNITS = {"十": 10, "百": 100, "千": 1_000, "万": 10_000, "亿": 100_000_000}

_UNITS = """
km,kilometer,kilometers,kilometre,kilometres,公里,千米 m,meter,meters,metre,metres,米 cm,centimeter,centimeters,厘米
mm,millimeter,millimeters,毫米 mile,miles,mi,英里 ft,foot,feet,英尺 inch,inches,英寸 yard,yards,码
kg,kilogram,kilograms,kilo,kilos,公斤,千克 gram,grams,克 mg,milligram,milligrams,毫克 ton,tons,tonne,tonnes,吨
lb,lbs,pound,pounds,磅 oz,ounce,ounces,盎司 liter,liters,litre,litres,公升 ml,milliliter,milliliters,毫升
gallon,gallons,加仑 celsius,centigrade,摄氏,摄氏度 fahrenheit,华氏,华氏度 kelvin,开尔文
second,seconds,sec,secs,秒 minute,minutes,min,mins,分钟 hour,hours,hr,hrs,小时 day,days,天
week,weeks,周,星期 month,months,个月 year,years,yr,yrs,年 decade,decades century,centuries,世纪
usd,dollar,dollars,$,美元 eur,euro,euros,€,欧元 gbp,sterling,£,英镑 yen,jpy,日元 rmb,cny,yuan,元,人民币
inr,rupee,rupees,₹,卢比 lakh,lakhs crore,crores cent,cents percent,%,percentage,百分之
kb,kilobyte,kilobytes mb,megabyte,megabytes gb,gigabyte,gigabytes tb,terabyte,terabytes
mbps kbps gbps hz khz mhz ghz watt,watts,瓦 kw,kilowatt,kilowatts volt,volts,伏 amp,amps,安培
mph kmh acre,acres hectare,hectares,公顷 calorie,calories,卡路里 kcal joule,joules
"""
UNITS = {form: group.split(",")[0] for group in _UNITS.split() for form in group.split(",")}

_GROUPS = """
buy,bought,buying,purchase,买,購買|sell,sold,selling,sale,卖,出售
increase,increasing,raise,gain,增加,提高,增强,增大|decrease,decreasing,reduce,reducing,lower,lose,减少,降低,减小,减弱
up,upward,upwards|down,downward,downwards
open,opening,打开,开启|close,closing,closed,shut,关闭,关上
start,begin,beginning,starting,开始|stop,end,ending,finish,quit,结束,停止
before,prior,之前,以前,饭前|after,following,之后,以后,饭后
enable,enabled,activate,on,启用|disable,disabled,deactivate,off,禁用,停用
install,installing,安装|uninstall,uninstalling,remove,卸载
add,adding,insert,添加|delete,deleting,subtract,remove,删除
allow,permit,allowed,允许|forbid,ban,banned,prohibit,禁止
accept,accepting|reject,rejecting,refuse,decline
win,winning,won|lose,losing,lost
best,better,good,最好,好|worst,worse,bad,最坏,最差,坏,差
advantages,advantage,pros,benefits,benefit,优点,优势,好处|disadvantages,disadvantage,cons,drawbacks,drawback,risks,缺点,劣势,坏处
most,more,最多,更多|least,less,fewer,最少,更少
maximum,max,largest,biggest,highest,最大,最高|minimum,min,smallest,lowest,最小,最低
long,longer,longest,最长|short,shorter,shortest,最短
fast,faster,quick,quickly,最快|slow,slower,slowly,最慢
hot,hotter,warm,热|cold,colder,cool,冷
old,older,oldest|new,newest,young,younger
early,earlier,最早|late,later,最晚
first,第一|last,latest,最后
cheap,cheaper,cheapest,便宜|expensive,costly,贵
easy,easiest,simple,容易|hard,hardest,difficult,难
rich,wealthy|poor
strong,stronger|weak,weaker
heavy|light
happy,高兴|sad,unhappy,难过
love,like|hate,dislike
alive,live|dead,die
true,真|false,假
safe,safely,安全|dangerous,unsafe,危险
legal,lawful,合法|illegal,unlawful,非法,违法
public,公开|private,私人
internal,inside,indoor,国内,内部|external,outside,outdoor,国外,外部
import,imports,进口|export,exports,出口
input,输入|output,输出
upload,上传|download,下载
login,signin,登录,登陆|logout,signout,注销
borrow,借入|lend,借出
teach,教|learn,学
send,发送|receive,接收
push|pull
encode,encrypt,encoding,加密,编码|decode,decrypt,decoding,解密,解码
encode,compress,压缩|extract,decompress,解压
left,左|right,右
above,over|below,under,beneath
north,northern,北方,北部|south,southern,南方,南部|east,eastern,东方,东部|west,western,西方,西部
male,man,men,boy,boys,guy,guys,男,男性,男人|female,woman,women,girl,girls,女,女性,女人
he,him,his,husband,boyfriend,father,dad,son,brother,他,丈夫,父亲,爸爸,儿子|she,her,hers,wife,girlfriend,mother,mom,daughter,sister,她,妻子,母亲,妈妈,女儿
success,succeed,成功|failure,fail,失败
support,支持|oppose,反对
positive,正数,阳性|negative,负数,阴性
profit,赚,盈利|loss,亏损,赔
rise,rising,涨,上涨,上升|fall,falling,drop,跌,下跌,下降
arrive,arrival,到达|depart,departure,leave,离开,出发
zoom in,放大|zoom out,缩小
sign in,log in|sign out,log out
opt in|opt out
check in|check out
move in|move out
am|pm
past noon|to noon
past midnight|to midnight
quarter past|quarter to
all,every,每个,所有,全部|some,several,有的,有些,某些
weekday,weekdays,工作日|weekend,weekends,周末
ascending,升序|descending,降序
thin,thins|thicken,thickens
提前|推迟
连接|断开
关注|取消关注
hire,雇用,聘用|fire,fired,解雇
gain,增肥,增重|lose,减肥,减重
asset,assets,资产|liability,liabilities,负债
supply,供给|demand,需求
hardware,硬件|software,软件
vegetarian,素食|meat,肉
day,daytime,白天|night,nighttime,晚上,夜里
morning,早上,上午|afternoon,下午|evening,傍晚
today,今天,今日|tomorrow,明天,明日|yesterday,昨天,昨日|后天|前天
今年|明年|去年|前年|后年
上周|下周|本周,这周
上个月|下个月|本月,这个月
previous,past|next,upcoming,future
spring,春天|summer,夏天|autumn,fall,秋天|winter,冬天
january,jan|february,feb|march|april,apr|may|june,jun|july,jul|august,aug|september,sept|october,oct|november,nov|december,dec
monday|tuesday|wednesday|thursday|friday|saturday|sunday
red,红|blue,蓝|green,绿|yellow,黄|black,黑|white,白|purple|orange|pink|brown
android,安卓|ios,iphone,苹果手机|windows
python|javascript|typescript|java|php|ruby|rust|golang|kotlin|swift|perl
mysql|postgresql,postgres|sqlite|mongodb|oracle
english,英语|chinese,mandarin,汉语,中文|spanish,西班牙语|french,法语|german,德语|japanese,日语|hindi|korean,韩语|russian,俄语|arabic,阿拉伯语|italian|portuguese
mathematics,maths,math,数学|physics,物理|chemistry,化学|biology,生物
undergraduate,bachelor,bachelors,本科|masters,master,硕士|phd,doctorate,博士
"""
_LOOKALIKES = """
trial,trials|trail,trails casual,casually|causal,causally marital|martial statue,statues|statute,statutes
dessert,desserts|desert,deserts principal,principals|principle,principles moral,morals|morale angel,angels|angle,angles
adapt,adapting,adapted|adopt,adopting,adopted insulin|inulin ethanol|methanol|ethane|methane ionic|iconic
horse,horses|house,houses plane,planes|planet,planets prednisone|prednisolone interphase|interface
cancer,cancers|career,careers nitrate,nitrates|nitrite,nitrites sulfate,sulphate|sulfite,sulphite|sulfide,sulphide
chloride|chlorine|chlorate fluoride|fluorine stationary|stationery council|counsel
patient,patients|patent,patents
solder,soldering|soldier,soldiers college,colleges|collage,collages immigrate|emigrate
prescribe,prescribed|proscribe,proscribed eminent|imminent elicit|illicit allusion|illusion county,counties|country,countries
message,messages|massage,massages expend|expand mediation|meditation|medication
"""
"""Words that look like misspellings of each other, and are none."""

GROUPS = [
    [frozenset(term.split(",")) for term in line.split("|")]
    for line in [*_GROUPS.strip().splitlines(), *_LOOKALIKES.split()]
]
"""Each is a group of terms, of which one excludes the others; each has its forms."""

_SYNONYMS = """
quit,stop end,finish start,begin buy,purchase delete,remove,erase fix,repair choose,pick,select
big,large small,little fast,quick car,automobile film,movie phone,telephone doctor,physician
lawyer,attorney kid,child kids,children picture,photo,image job,work ill,sick shop,store
error,bug price,cost show,display create,make
"""
SYNONYMS = [frozenset(group.split(",")) for group in _SYNONYMS.split()]
"""Words that may stand for each other in most questions."""

CHINESE_SYNONYMS = {
    "移除": "删除", "购买": "买", "计算机": "电脑", "更改": "修改", "终止": "停止",
}  # fmt: skip
"""The same for Chinese, each by one of them."""

SHORT = {"usa": "us"}
"""Abbreviations that are more than the initials of what they are spelled out as."""
TWO_LETTERS = frozenset(["us", "uk", "un", "eu", "ww"])
"""Abbreviations of two letters that stand for what they are the initials of."""
ALSO_WORDS = frozenset(["us", "it", "who"])
"""Abbreviations that are other words when they are written small."""
LEFT_OUT = frozenset(["of", "the", "and", "for"])
"""Words whose initials abbreviations leave out."""
NATIONS = frozenset("n an ian ean ish ese i s es er ers ns ans ians ic".split())
"""What makes of a name those who belong to it, or what does."""
ENDINGS = NATIONS | frozenset("y ey ay e a ia o egian".split())
"""What such an ending may take the place of."""

_INSTEAD = """
is,are,am|was,were
do,does|did
has,have|had
all,every,each|most|many|few|some,any,several|no
both|either
from,since|to,until,till
my,our|your|his|her|their
me|you|him|them
"""
INSTEAD = [
    {word: place for place, term in enumerate(line.split("|")) for word in term.split(",")}
    for line in _INSTEAD.split()
]
"""Small words, by the place in a line: one instead of another of its line asks something else."""

DIRECTED = frozenset(
    """from to than into over before after beat beats defeat love loves hate hates hit owe owes call
    convert converts versus kill kills killed follow follows cause causes lead leads make
    send sends give gives 比 到 换 转 打 给 从 对 转换 变成 喜欢 爱 欠 教 追 导致 先 后""".split()
)
"""In texts with these the order of the others counts."""

BETWEEN = frozenset("to than from into over of on in".split())
"""What stands before and behind one of these cannot change places."""

FILLING = frozenset(
    """i you we one my your our the a an do does did is are can could will would should how what
    why""".split()
)
"""What questions in other words differ in, while the order of the rest is what they ask."""

JOINED = frozenset("and or und oder y et ou e o 和 与 或 跟 及 还 是 vs versus".split())
"""Around these two things may change places."""

ASKED_FOR = {
    "who": ("who", "whom", "whose", "谁", "哪位", "何人"),
    "when": ("when", "what time", "what year", "what date", "何时", "什么时候", "几点", "哪天", "哪年", "哪一年"),
    "where": ("where", "哪里", "哪儿", "何处", "什么地方"),
    "why": ("why", "how come", "为什么", "为何", "为啥"),
    "how often": ("how often", "多久一次", "多频繁"),
    "how long": ("how long", "how much time", "多久", "多长时间"),
    "how many": ("how many", "how much", "多少", "几个"),
    "how far": ("how far", "多远"),
    "how old": ("how old", "多大年纪", "几岁", "多大岁数"),
    "how tall": ("how tall", "how high", "多高"),
    "how big": ("how big", "how large", "多大"),
}  # fmt: skip
WHETHER = re.compile(
    "(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have|had) |.* 吗"
)
"""What is asked where yes or no is the answer: words with a space after each."""
WHAT = re.compile("(?:who|whom|whose|when|where|why|how) |.*[\u3400-\u9fff]")
"""And where it is not."""
ASKING = frozenset(
    """who whom whose when where why what which how many much long far old often tall high big
    large time year date is are was were do does did the a an""".split()
)

STOPWORDS = frozenset(
    """a an the of in on at to for from by with and or but if then so as is are was were be been
    being am do does did done doing have has had having can could will would shall should may might
    must i me my mine we us our you your yours it its they them their this that these those there
    here what which who whom whose when where why how some any all each s t d ll re ve m please
    tell explain just really very also too much many more most really actually get gets got
    的 了 吗 呢 啊 呀 吧 么 请 请问 我 你 您 是 在 有 和 与 就 都 也 想 要 会 能 可以 应该 这 那 个
    一 什 怎 样 如 何 啥 哪""".split()
)
"""Words that say little about what is asked."""
